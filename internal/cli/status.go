package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/sock"
)

// Exit statuses, of sysexits(3).
const (
	StatusOK       = 0
	StatusUsage    = 64 // the command line is invalid
	StatusInUse    = 69 // the address is in use
	StatusProtocol = 70 // the core has violated the control protocol
	StatusOS       = 71 // a system call failed
	StatusNoPerm   = 77 // permission denied
	StatusConfig   = 78 // the configuration is invalid
)

// usageError is an invalid command line: exit status 64.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// configError is a valid command line that cannot work here: exit status 78.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// Report prints each error on its own line.
func Report(w io.Writer, err error) {
	for _, e := range Flatten(err) {
		fmt.Fprintf(w, "onewake: %s\n", Explain(e))
	}
}

// Explain returns the text of an error and a hint how to fix it.
func Explain(err error) string { return err.Error() + hint(err) }

// Flatten splits a collection of errors.
func Flatten(err error) []error {
	var m *multierror.Error
	if errors.As(err, &m) {
		var all []error
		for _, e := range m.Errors {
			all = append(all, Flatten(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// ExitStatus returns the exit status for an error. If there are several, the
// one that has to be fixed first counts.
func ExitStatus(err error) int {
	var usage usageError
	var config configError
	switch {
	case err == nil:
		return StatusOK
	case errors.As(err, &usage), errors.Is(err, sock.ErrBadAddr):
		return StatusUsage
	case errors.Is(err, control.ErrProtocol):
		return StatusProtocol
	case errors.As(err, &config), errors.Is(err, sock.ErrUnsafeDir), errors.Is(err, sock.ErrNotSocket),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return StatusConfig
	case errors.Is(err, fs.ErrPermission):
		return StatusNoPerm
	case errors.Is(err, sock.ErrInUse):
		return StatusInUse
	}
	return StatusOS
}

// Release returns the version set by the linker, or else the module version.
func Release(linked string) string {
	if bi, ok := debug.ReadBuildInfo(); linked == "devel" && ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return linked
}
