"""From a trained net to a file that another runtime reads, and what that costs."""
