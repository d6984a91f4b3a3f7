"""What the edge bears: overload, a thousand held polls, and the existing game beside a Letta that hangs."""
