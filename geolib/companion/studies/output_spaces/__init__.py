"""Studies of feature maps on top of a generator: Michelis & Becker 2021, Sec. 2.2, App. B and E."""
