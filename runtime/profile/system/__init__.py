"""What is asked of the operating system beside a measurement: its limits of memory, its page cache, its own figures."""
