"""SHA-256 of published files, with their numbers of samples."""

from __future__ import annotations

# From a third party's record of MulT's archive, and from the readme of MMSA.
PUBLISHED = {
    "31007381c01dd346945ed8a64c7321239de5aaf1ef05bf112e952848a823186d": "MulT's mosei_senti_data.pkl",
    "1a113ad5edc8b9b625a7e29e6b94a97ecade70494c4e022d9f7ba5affca3bbdc": "MulT's mosi_data.pkl",
    "637d72469fe19333d7acfe9ca543f0f45af8004f103ed05649881b713c769e45": "MulT's mosi_data_noalign.pkl",
    "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524": "MMSA's MOSI/Processed/unaligned_50.pkl",
    "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9": "MMSA's MOSI/Processed/aligned_50.pkl",
    "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f": "MMSA's MOSEI/Processed/unaligned_50.pkl",
    "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791": "MMSA's MOSEI/Processed/aligned_50.pkl",
    "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f": "MMSA's SIMS/Processed/unaligned_39.pkl",
}


def published_file(sha256: str) -> str | None:
    """Returns the name of a published file by its hash, or None."""
    return PUBLISHED.get(sha256)
