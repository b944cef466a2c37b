"""medsjax: tune and judge medical language models on JAX."""
