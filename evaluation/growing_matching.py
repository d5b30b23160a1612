"""A maximum bipartite matching that stays maximum while vertices of one side come and go."""

from __future__ import annotations


class GrowingMatching:
    """Maximum matching between the left vertices present and all right vertices.

    A left vertex that comes is matched by one search for an augmenting path; if there is none, all
    right vertices that the search has reached are *saturated*: the left vertices matched to them
    have no other neighbours, so no later search has to enter. A left vertex that goes leaves its
    partner free, and one search backward from there finds whether a left vertex without partner can
    take the place. Either search changes the size by at most one, so the matching is maximum after
    every step (Berge, 1957). Each search that fails marks what it saw, so all of them together
    cost little more than one look at the graph.

    Args:
        rights_of_left: Right neighbours of each left vertex, preferred ones first.
    """

    def __init__(self, rights_of_left: list[list[int]], lefts_of_right: list[list[int]]) -> None:
        self._rights_of_left = rights_of_left
        self._lefts_of_right = lefts_of_right
        self._right_of = [-1] * len(rights_of_left)
        self._left_of = [-1] * len(lefts_of_right)
        self._is_present = [False] * len(rights_of_left)
        self._is_saturated = [False] * len(lefts_of_right)
        self.size = 0

    def change(self, added: list[int], removed: list[int]) -> None:
        """Let left vertices come, then others go.

        Args:
            added: Not present now.
            removed: Present now.
        """
        for left in added:
            self._is_present[left] = True
            self.size += self._match_left(left)
        # Right vertices that no left vertex without partner can reach, as long as none comes.
        barren: set[int] = set()
        for left in removed:
            self._is_present[left] = False
            right = self._right_of[left]
            if right >= 0:
                self._right_of[left] = self._left_of[right] = -1
                if right in barren or not self._match_right(right, barren):
                    self.size -= 1

    def _match_left(self, left: int) -> bool:
        left_of, is_saturated = self._left_of, self._is_saturated
        for right in self._rights_of_left[left]:
            if left_of[right] < 0:
                self._pair(left, right)
                return True
        reached_from: dict[int, int] = {}
        queue = [left]
        for each in queue:
            for right in self._rights_of_left[each]:
                if is_saturated[right] or right in reached_from:
                    continue
                reached_from[right] = each
                if left_of[right] < 0:
                    self._shift_rights(right, reached_from)
                    return True
                queue.append(left_of[right])
        for right in reached_from:
            is_saturated[right] = True
        return False

    def _match_right(self, right: int, barren: set[int]) -> bool:
        right_of, is_present = self._right_of, self._is_present
        reached_from: dict[int, int] = {}
        seen = {right}
        queue = [right]
        for each in queue:
            for left in self._lefts_of_right[each]:
                if not is_present[left] or left in reached_from:
                    continue
                reached_from[left] = each
                if right_of[left] < 0:
                    self._shift_lefts(left, reached_from)
                    return True
                partner = right_of[left]
                if partner not in seen and partner not in barren:
                    seen.add(partner)
                    queue.append(partner)
        barren |= seen
        # A search that enters one of them now ends at the free vertex.
        for each in seen:
            self._is_saturated[each] = False
        return False

    def _shift_rights(self, right: int, reached_from: dict[int, int]) -> None:
        while right >= 0:
            left = reached_from[right]
            next_right = self._right_of[left]
            self._pair(left, right)
            right = next_right

    def _shift_lefts(self, left: int, reached_from: dict[int, int]) -> None:
        while left >= 0:
            right = reached_from[left]
            next_left = self._left_of[right]
            self._pair(left, right)
            left = next_left

    def _pair(self, left: int, right: int) -> None:
        self._right_of[left], self._left_of[right] = right, left
