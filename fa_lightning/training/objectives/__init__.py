"""What fitting an adapter lowers: small classes that a config names, each beside a pure loss."""
