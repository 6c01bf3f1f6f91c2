package sock

// stepHook is called with the name of each step of Listen. Tests end the process
// there.
var stepHook func(name string)

func step(name string) {
	if stepHook != nil {
		stepHook(name)
	}
}
