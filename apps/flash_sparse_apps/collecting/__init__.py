"""Results that are kept, and the page that shows them beside what others published."""
