# A fake: only what overrides see.
OVERRIDES = "pn-${PN}:class-native"
