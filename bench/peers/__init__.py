"""What Earshot is measured beside: small honest programs, each as fast as its libraries allow."""
