package runtime

import "unsafe"

// The init process is a few dozen instructions (init_*.s) in an executable
// without anything else. It has one page of memory and no file in the
// container. The container's child forks the command itself, so the init
// process only reaps, forwards signals to the command and exits as it does.

// initText returns the address of the init process's code.
func initText() unsafe.Pointer

// init hands the child the init process's executable.
func (l *launch) init() error {
	f, err := initFile()
	if err != nil {
		return err
	}
	l.give("init", f)
	return nil
}
