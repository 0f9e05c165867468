"""From a task to pictures: prompts and references become conditions, noise becomes latents, latents become pixels."""
