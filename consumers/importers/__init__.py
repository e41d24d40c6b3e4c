"""What other systems keep of users and items, as Headrace's own messages."""
