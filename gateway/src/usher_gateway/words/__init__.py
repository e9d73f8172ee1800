"""What commands, pages and the API say: the columns and filters of lists, states, and sentences. No HTTP, no I/O."""
