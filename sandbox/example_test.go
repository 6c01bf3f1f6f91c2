package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"

	"github.com/onewake/onewake/sandbox"
)

// shout copies an untrusted file to standard output. All files are open before it
// enters the sandbox.
func shout(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, err := range []error{
		sandbox.Limit(f, sandbox.Read),
		sandbox.LimitFD(0, 0),
		sandbox.LimitFD(1, sandbox.Write),
		sandbox.LimitFD(2, sandbox.Write),
		sandbox.Enter(),
	} {
		if err != nil && !errors.Is(err, sandbox.ErrUnsupported) {
			return err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	fmt.Printf("%s!\n", b)
	return nil
}

// A process cannot leave the sandbox, so another process calls shout.
func Example() {
	f, err := os.CreateTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	fmt.Fprint(f, "hello")
	f.Close()

	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"SANDBOX_TEST_ROLE=shout", "SANDBOX_TEST_FILE=" + f.Name(), "GORACE=atexit_sleep_ms=0"}
	out, err := cmd.Output()
	if err != nil {
		log.Print(err)
	}
	fmt.Print(string(out))
	// Output: hello!
}

func init() {
	sandbox.Roles["shout"] = func() error { return shout(os.Getenv("SANDBOX_TEST_FILE")) }
}
