package main

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sock"
)

// check checks everything that a start would and changes nothing. All problems
// are told at once, those of the command line (wrong) included. Our own server
// that is running is told of, and is none.
func check(o *options, wrong error) int {
	var errs *multierror.Error
	errs = multierror.Append(errs, flatten(wrong)...)
	if unix.Access(o.spoolDir, unix.W_OK|unix.X_OK) == unix.EACCES {
		errs = multierror.Append(errs, fmt.Errorf("-spool-dir %s: %w", o.spoolDir, unix.EACCES))
	}
	if unix.Access(o.dir, unix.X_OK) == unix.EACCES {
		errs = multierror.Append(errs, fmt.Errorf("-dir %s: %w", o.dir, unix.EACCES))
	}
	for _, a := range o.listen {
		note, err := sock.Check(a, o.perms)
		switch {
		case errors.Is(err, sock.ErrLocked):
			fmt.Printf("%v: a server of ours is running\n", a)
		case err != nil:
			errs = multierror.Append(errs, err)
		case note != "":
			fmt.Printf("%v: %s\n", a, note)
		}
	}
	if err := errs.ErrorOrNil(); err != nil {
		return report(err)
	}
	fmt.Println("configuration is good")
	return statusOK
}
