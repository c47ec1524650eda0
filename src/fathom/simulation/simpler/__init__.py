"""SIMPLER (Li et al. 2024): simulated twins of BridgeData's WidowX and of the Google Robot."""
