// Command etcd is the etcd server. Its own module can't be installed by version because it replaces its requirements.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
