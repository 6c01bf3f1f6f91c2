package e2e

// A core's argv[0] and its descriptors, for a test that poses as one.
const (
	coreName    = "onewake: core"
	coreControl = 3
	coreFirst   = 4
)
