package perms_test

import (
	"fmt"
	"log"
	"os"

	"github.com/onewake/onewake/perms"
)

// A Spec from user input.
func ExampleSpec() {
	mode, err := perms.ParseMode("0660")
	if err != nil {
		log.Fatal(err)
	}
	gid, err := perms.LookupGroup("80")
	if err != nil {
		log.Fatal(err)
	}
	spec := perms.Spec{Mode: perms.Set(mode), GID: perms.Set(gid)}
	fmt.Println(spec.Mode.Permits(0o660), spec.UID.Permits(4711), spec.GID.Permits(4711))

	_, err = perms.ParseMode("rw-rw----")
	fmt.Println(err)
	_, err = perms.LookupUser("no such user")
	fmt.Println(err)
	// Output:
	// true true false
	// mode "rw-rw----": not an octal number from 0 to 0777
	// user "no such user": no such user, and not a number from 0 to 4294967294
}

// The directory stays open, so that the file is in this directory even if the path
// changes.
func ExampleSpec_ApplyAt() {
	name, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(name)
	if err := os.WriteFile(name+"/file", nil, 0o600); err != nil {
		log.Fatal(err)
	}
	dir, err := os.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Close()

	spec := perms.Spec{Mode: perms.Set(0o640)}
	if err := spec.ApplyAt(dir, "file"); err != nil {
		log.Fatal(err)
	}
	fi, err := os.Lstat(name + "/file")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fi.Mode())
	// Output: -rw-r-----
}

func ExampleNotes() {
	for _, mode := range []os.FileMode{0o666, 0o600, 0o444} {
		fmt.Println(mode, perms.Notes(mode, os.Geteuid()))
	}
	// Output:
	// -rw-rw-rw- [every local user can connect]
	// -rw------- [no user but the owner and root can connect]
	// -r--r--r-- [no user but root can connect]
}
