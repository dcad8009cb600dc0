"""The tools, a module each; tools/ has scripts that call them."""
