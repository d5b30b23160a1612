"""Stages under Ray Train."""
