package spawn

// CheckVars is what the monitor thinks of a core's variables.
func CheckVars(b []byte) ([]string, error) { return checkVars(nil, b) }
