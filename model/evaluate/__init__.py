"""What a trained model is worth: held-out losses, what a cut of its experts costs, modularity."""
