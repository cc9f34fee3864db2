"""What flanneld's command lines have and ours lack."""
