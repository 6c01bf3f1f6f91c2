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

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// command checks the command once, at start, so that errors are reported then and
// not with each request. A name without a slash is searched for in the PATH of the
// command, not in that of onewake: a command line then means the same program from
// a shell and from rc(8). The resulting path is absolute because the working
// directory changes before exec.
func (p *parser) command(c *Config) {
	if len(c.Command) == 0 {
		if c.CGI {
			p.usage("-cgi: no command, add one after the flags")
		}
		return
	}
	name := c.Command[0]
	path, err := findCommand(name, strings.TrimPrefix(c.Env[0], "PATH="))
	if err == nil {
		if err = checkProgram(path); err != nil && path != name {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		p.config("command %q: %w", name, err)
		return
	}
	c.Path = path
}

// findCommand returns the absolute path of a command.
func findCommand(name, searchPath string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("empty, use the path of a program, or no argument for the test page")
	case strings.Contains(name, "/"):
		return filepath.Abs(name)
	}
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if filepath.IsAbs(path) && checkExecutable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("not in PATH=%s, use its absolute path", searchPath)
}

// checkExecutable returns an error if this user cannot execute the file.
func checkExecutable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: user %s cannot enter its directory", errors.Unwrap(err), perms.UserName(os.Geteuid()))
	case err != nil:
		return errors.Unwrap(err) // without the path
	case fi.IsDir():
		return errors.New("a directory, use the path of a program")
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file, use the path of a program")
	}
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, fs.ErrPermission) {
		if fi.Mode()&0o111 == 0o111 {
			return fmt.Errorf("not executable for user %s although its mode is %#o: is the file system mounted with noexec?", perms.UserName(os.Geteuid()), fi.Mode().Perm())
		}
		return fmt.Errorf("not executable for user %s (to fix: chmod a+x %s)", perms.UserName(os.Geteuid()), path)
	}
	return err
}

// checkProgram returns an error if execve(2) would fail, as far as can be known
// without trying. It checks the interpreter of a script too.
func checkProgram(path string) error {
	if err := checkExecutable(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil // execution does not need read permission
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return errors.Unwrap(err) // without the path
	}
	text, isScript := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "#!")
	if !isScript {
		if line == "" || !strings.Contains(line, "\x00") && !strings.HasPrefix(line, "\x7fELF") {
			return errors.New("neither a binary nor a script that begins with #! (to fix: make #!/bin/sh or another interpreter its first line)")
		}
		return nil
	}
	interpreter, _, _ := strings.Cut(strings.Trim(text, " \t"), " ")
	interpreter, _, _ = strings.Cut(interpreter, "\t")
	if interpreter == "" {
		return errors.New("no interpreter after #!, use for example #!/bin/sh")
	}
	if err := checkExecutable(interpreter); err != nil {
		return fmt.Errorf("interpreter %q: %w", interpreter, err)
	}
	return nil
}
