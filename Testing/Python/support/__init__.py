"""What several test modules share: tiny models, made-up files, child processes, the host."""
