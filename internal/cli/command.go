package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// The command is looked at once, at start, so that what would fail at every
// request is told to whoever starts the service. The same command line means
// the same program from a shell and from rc(8): a name alone is looked for in
// the PATH that the command gets, never in that of the daemon.

// command finds the program and makes its path absolute: each start changes
// directory before it executes.
func (p *parser) command(c *Config) {
	if len(c.Command) == 0 {
		if c.CGI {
			p.errs = multierror.Append(p.errs, usageError{errors.New("-cgi: no command is given, put one behind the flags")})
		}
		return
	}
	name := c.Command[0]
	path, err := findCommand(name, pathOf(c.Env))
	if err == nil {
		if err = checkProgram(path); err != nil && path != name {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		p.config(fmt.Errorf("command %q: %w", name, err))
		return
	}
	c.Path = path
}

// findCommand gives the absolute path of a command; list is its PATH.
func findCommand(name, list string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("empty, give the path of a program, or nothing for the test page")
	case strings.Contains(name, "/"):
		return filepath.Abs(name)
	}
	for _, dir := range filepath.SplitList(list) {
		path := filepath.Join(dir, name)
		if filepath.IsAbs(path) && checkExecutable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("not in PATH=%s, give its absolute path", list)
}

// pathOf is the PATH in a list of variables, empty if there is none.
func pathOf(env []string) (list string) {
	for _, v := range env {
		if s, ok := strings.CutPrefix(v, "PATH="); ok {
			list = s
		}
	}
	return list
}

// checkExecutable tells why a file cannot be executed.
func checkExecutable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: user %s cannot look into its directory", errors.Unwrap(err), perms.UserName(os.Geteuid()))
	case err != nil:
		return errors.Unwrap(err) // without the path
	case fi.IsDir():
		return errors.New("a directory, give the path of a program")
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file, give the path of a program")
	}
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, fs.ErrPermission) {
		if fi.Mode()&0o111 == 0o111 {
			return fmt.Errorf("not executable for user %s, though its mode is %#o: is it mounted with noexec?", perms.UserName(os.Geteuid()), fi.Mode().Perm())
		}
		return fmt.Errorf("not executable for user %s (to mend: chmod a+x %s)", perms.UserName(os.Geteuid()), path)
	}
	return err
}

// checkProgram finds out what execve(2) would say of a file, as far as this can
// be known: a script needs an interpreter.
func checkProgram(path string) error {
	if err := checkExecutable(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil // it may be executed without being read
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return errors.Unwrap(err) // without the path
	}
	text, isScript := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "#!")
	if !isScript {
		if line == "" || !strings.Contains(line, "\x00") && !strings.HasPrefix(line, "\x7fELF") {
			return errors.New("its first line is not #!, which says what runs it (to mend: put #!/bin/sh or such there)")
		}
		return nil
	}
	interpreter, _, _ := strings.Cut(strings.Trim(text, " \t"), " ")
	interpreter, _, _ = strings.Cut(interpreter, "\t")
	if interpreter == "" {
		return errors.New("its #! names no interpreter, such as #!/bin/sh")
	}
	if err := checkExecutable(interpreter); err != nil {
		return fmt.Errorf("its #! names %q: %w", interpreter, err)
	}
	return nil
}
