"""From what an energy counter shows to joules with an uncertainty: readings, their recording, their arithmetic."""
