package sandbox_test

import (
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/onewake/onewake/sandbox"
)

// The write end of a pipe is limited to writing. Where that is supported, its other
// rights cannot be regained.
func ExampleLimit() {
	r, w, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	switch err := sandbox.Limit(w, sandbox.Write|sandbox.Event); {
	case errors.Is(err, sandbox.ErrUnsupported):
		log.Print("not limited: ", err)
	case err != nil:
		log.Fatal(err)
	case sandbox.Limit(w, sandbox.Read) == nil:
		fmt.Println("the right was regained")
	}
	fmt.Fprintln(w, "hello")
	var line string
	fmt.Fscan(r, &line)
	fmt.Println(line)
	// Output: hello
}
