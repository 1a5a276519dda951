"""What two papers share: the trunk and its cache, the chunked loss, the future heads. Imports torch only."""
