"""What a trained model is worth: figures on held-out images, their report, and predictions for new ones."""
