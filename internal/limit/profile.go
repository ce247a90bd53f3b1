package limit

func profileNamed(name string) (int, bool) {
	switch name {
	case "", "auto":
		return 0, true
	case "openai", "azure", "anthropic", "postpaid":
		return 1, true
	}
	return 0, false
}
