"""What a trained net says of one image, explained by a linear student of it."""
