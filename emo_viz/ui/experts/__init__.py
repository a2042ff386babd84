"""The experts page: all experts of the runs, and one by one."""
