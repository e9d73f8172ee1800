"""What the operator makes, one kind of object per file. Pure builders: values in, manifests out."""
