"""What is wanted for one key, one kind per file. Pure; ``plan.plan`` chooses among them."""
