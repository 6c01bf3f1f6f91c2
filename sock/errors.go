package sock

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Errors that a caller may want to tell apart, with [errors.Is]. Lack of
// permission is [io/fs.ErrPermission], a missing directory
// [io/fs.ErrNotExist].
var (
	// ErrInUse means that somebody serves at the address already.
	ErrInUse = errors.New("address already in use")

	// ErrLocked is an ErrInUse too, and means that it is a server that holds
	// the lock of the socket: one that was made by [Listen].
	ErrLocked error = &detail{ErrInUse, errors.New("lock is held")}

	// ErrNotSocket means that something other than a socket stands at the
	// path, or that an inherited descriptor is no socket.
	ErrNotSocket = errors.New("not a socket")

	// ErrUnsafeDir means that others than root and the process's own user
	// could replace a socket in its directory.
	ErrUnsafeDir = errors.New("unsafe directory")

	// ErrUnsafeLock is an ErrUnsafeDir too, and means that something stands in
	// the place of the lock file that the process's own user did not make.
	ErrUnsafeLock error = &detail{ErrUnsafeDir, errors.New("unsafe lock file")}

	// ErrBadAddr means that the address itself cannot be used.
	ErrBadAddr = errors.New("bad address")
)

// A detail is an error with a text of its own that is also a kind of error.
type detail struct {
	kind error
	err  error
}

func (d *detail) Error() string { return d.err.Error() }

func (d *detail) Unwrap() []error { return []error{d.err, d.kind} }

func kindf(kind error, format string, args ...any) error {
	return &detail{kind, fmt.Errorf(format, args...)}
}

func badAddr(format string, args ...any) error { return kindf(ErrBadAddr, format, args...) }

// toFind names the command that tells more, where one is known.
func toFind(what, freebsd, linux string) string {
	switch runtime.GOOS {
	case "freebsd":
		return fmt.Sprintf(" (to find %s: %s)", what, freebsd)
	case "linux":
		return fmt.Sprintf(" (to find %s: %s)", what, linux)
	}
	return ""
}

// inUse says that another server than those of this package has the address.
func inUse(how string) error {
	return fmt.Errorf("%w: another server %s%s", ErrInUse, how, toFind("it", "sockstat -l", "ss -lnp"))
}

// listenError says what was tried, as every error of Listen does.
func listenError(a Addr, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("listen %v: %w", a, err)
}

// collect puts errors, of which any may be nil, into one, or nil.
func collect(errs ...error) error {
	var all *multierror.Error
	for _, err := range errs {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	if all == nil {
		return nil
	}
	if len(all.Errors) == 1 {
		return all.Errors[0]
	}
	all.ErrorFormat = func(errs []error) string {
		texts := make([]string, len(errs))
		for i, err := range errs {
			texts[i] = err.Error()
		}
		return strings.Join(texts, "; ")
	}
	return all
}
