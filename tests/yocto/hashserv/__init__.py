"""A fake: the wheel of bitbake's library leaves this package out, and nothing here needs it."""
