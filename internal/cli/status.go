package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/sock"
)

// Exit statuses, of sysexits(3).
const (
	StatusOK     = 0
	StatusUsage  = 64 // the command line cannot be understood
	StatusInUse  = 69 // somebody else serves at the address
	StatusBreach = 70 // the core has sent what no honest one does
	StatusOS     = 71 // the system refused something
	StatusNoPerm = 77 // not permitted
	StatusConfig = 78 // the configuration cannot work
)

// ErrBreach is why a service ends whose core has sent what no honest one does.
var ErrBreach = errors.New("breach by core")

// usageError is a command line that cannot be understood: exit status 64.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// configError is one that can, and will not work: exit status 78.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// Report prints each error on a line of its own.
func Report(w io.Writer, err error) {
	for _, e := range Flatten(err) {
		fmt.Fprintf(w, "onewake: %s\n", Explain(e))
	}
}

// Explain is the text of an error, with what would mend it.
func Explain(err error) string { return err.Error() + hint(err) }

// Flatten takes collections of errors apart.
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

// ExitStatus maps an error to a status, the one place that does. Of several the
// one that must be mended first counts.
func ExitStatus(err error) int {
	var usage usageError
	var config configError
	switch {
	case err == nil:
		return StatusOK
	case errors.As(err, &usage), errors.Is(err, sock.ErrBadAddr):
		return StatusUsage
	case errors.Is(err, ErrBreach):
		return StatusBreach
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

// Release is the version that was linked, or what Go knows of the build.
func Release(linked string) string {
	if bi, ok := debug.ReadBuildInfo(); linked == "devel" && ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return linked
}
