package ledger

const crashDirEnv = "LEDGER_TEST_CRASH_DIR"

func crashChild(string) int { return 0 }
