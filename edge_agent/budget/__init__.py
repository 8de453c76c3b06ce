"""The ledger of cloud assistance, and the paid calls it allows."""
