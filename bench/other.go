//go:build !linux

// Bench measures onewake against the limit of the system and against its
// peers. It reads what only Linux's /proc tells.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux")
	os.Exit(1)
}
