"""A run told to people: its page, pictures and examples."""
