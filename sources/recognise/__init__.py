"""What a folder of somebody else holds, told from names and content."""
