"""What is known from former runs, and what that depends on."""
