"""The edge daemon: owns keys, installs certificates, proves that they are served."""
