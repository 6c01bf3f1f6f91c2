package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Errors to tell apart, with [errors.Is]. Lack of permission is
// [io/fs.ErrPermission], a missing directory [io/fs.ErrNotExist].
var (
	// ErrInUse means that somebody serves at the address already.
	ErrInUse = errors.New("address already in use")
	// ErrLocked is an ErrInUse too, and means that it is a server that holds
	// the lock of the socket: one that was made by [Listen].
	ErrLocked error = &Error{kind: ErrInUse, err: errors.New("lock is held")}
	// ErrNotSocket means that something other than a socket stands at the
	// path, or that an inherited descriptor is no socket.
	ErrNotSocket = errors.New("not a socket")
	// ErrUnsafeDir means that others than root and the process's own user
	// could replace the socket, in its directory or in one above it.
	ErrUnsafeDir = errors.New("unsafe directory")
	// ErrUnsafeLock is an ErrUnsafeDir too, and means that something that the
	// process's own user did not make stands in the place of the lock file.
	ErrUnsafeLock error = &Error{kind: ErrUnsafeDir, err: errors.New("unsafe lock file")}
	// ErrBadAddr means that the address itself cannot be used.
	ErrBadAddr = errors.New("bad address")
)

// A Cause is what is wrong, where there may be more to say of it than the text.
type Cause int

const (
	Other        Cause = iota
	NoDir              // the socket's directory, Path, is not there
	DirOwner           // the socket's directory, Path, is neither this user's nor root's
	ParentOwner        // the same of Path, a directory above it
	DirWritable        // others can write the directory Path, by those bits of its mode that Mode has
	ForeignLink        // others can replace Path, a symbolic link on the way
	BadLock            // Path is not a lock file of this user's
	LockHeld           // a running server holds the lock file Path
	Taken              // another server has the address
	NoAnswer           // the socket Path is not for this user to connect to
	NotRemovable       // the leftover socket Path is not for this user to remove
	CannotChown        // only root can give the socket to the owner that is wanted
	CannotChgrp        // this user is not in the group that is wanted
	NoInterface        // no interface has the name that is in the address
	NoLocal            // no interface has the address
)

// An Error says what is wrong, with all names, and not what would mend it: that
// is for the program to say, which knows its users and its system. The fields
// are for it, by way of [errors.As].
type Error struct {
	Cause Cause
	Path  string      // of the file or directory that it is about
	Mode  fs.FileMode // 0020, 0002 or both, for DirWritable
	kind  error       // what errors.Is finds besides err
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

// wrap says what was tried, of each of several errors if there are several.
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

// collect puts errors, of which any may be nil, into one, or nil.
func collect(errs ...error) error {
	all := &multierror.Error{ErrorFormat: oneLine}
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

func oneLine(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
