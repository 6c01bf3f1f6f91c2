package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Use [errors.Is] to tell errors apart. A missing permission is
// [io/fs.ErrPermission], a missing directory [io/fs.ErrNotExist].
var (
	// ErrInUse means that another server uses the address.
	ErrInUse = errors.New("address already in use")
	// ErrLocked is also an ErrInUse. It means that this server holds the lock,
	// so that it was started by [Listen].
	ErrLocked = fmt.Errorf("%w: lock is held", ErrInUse)
	// ErrNotSocket means that the file at the path, or the inherited
	// descriptor, is not a socket.
	ErrNotSocket = errors.New("not a socket")
	// ErrUnsafeDir means that users other than root and the process's own could
	// replace the socket or a directory above it.
	ErrUnsafeDir = errors.New("unsafe directory")
	// ErrUnsafeLock is also an ErrUnsafeDir. It means that the process's own
	// user did not create the lock file.
	ErrUnsafeLock = fmt.Errorf("%w: unsafe lock file", ErrUnsafeDir)
	// ErrBadAddr means that the address itself cannot be used.
	ErrBadAddr = errors.New("bad address")
)

// A Cause says more precisely what is wrong.
type Cause int

const (
	Other        Cause = iota
	NoDir              // the socket's directory, Path, does not exist
	DirOwner           // neither this user nor root owns the socket's directory, Path
	ParentOwner        // neither this user nor root owns Path, a directory above it
	DirWritable        // others can write the directory Path, because its mode has the bits in Mode
	ForeignLink        // others can replace Path, a symbolic link in the path
	BadLock            // Path is not a lock file of this user
	LockHeld           // a running server holds the lock file Path
	Taken              // another server uses the address
	NoAnswer           // this user may not connect to the socket Path
	NotRemovable       // this user may not remove the leftover socket Path
	CannotChown        // only root can set this owner
	CannotChgrp        // this user is not in the group
	NoInterface        // no interface has the name in the address
	NoLocal            // no interface has the address
)

// An Error says what is wrong, with all names, but not how to fix it: that
// depends on the program and the system. Use [errors.As] to get the fields.
type Error struct {
	Cause Cause
	Path  string      // the file or directory
	Mode  fs.FileMode // 0020, 0002 or both, for DirWritable
	kind  error       // matched by errors.Is besides err
	err   error
}

func (e *Error) Error() string        { return e.err.Error() }
func (e *Error) Unwrap() error        { return e.err }
func (e *Error) Is(target error) bool { return e.kind != nil && errors.Is(e.kind, target) }

func failf(cause Cause, path string, kind error, format string, args ...any) error {
	return &Error{Cause: cause, Path: path, kind: kind, err: fmt.Errorf(format, args...)}
}

func badAddr(format string, args ...any) error { return failf(Other, "", ErrBadAddr, format, args...) }
func taken(how string) error                   { return failf(Taken, "", nil, "%w: another server %s", ErrInUse, how) }

// wrap adds what was tried to an error, or to each of several errors.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var all *multierror.Error
	if errors.As(err, &all) {
		for i, err := range all.Errors {
			all.Errors[i] = wrap(err, format, args...)
		}
		return all
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// collect combines errors that are not nil into one.
func collect(errs ...error) error {
	all := &multierror.Error{ErrorFormat: func(errs []error) string {
		return strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
	}}
	for _, err := range errs {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	if len(all.Errors) == 1 {
		return all.Errors[0]
	}
	return all.ErrorOrNil()
}
