"""The three profiles in which the pipeline runs: quick for CI, paper by default, full for the reference."""

PROFILES = ("quick", "paper", "full")


def check_profile(profile: str) -> str:
    """The profile itself.

    Raises:
        ValueError: for a name that is no profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: got {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    return profile
