// Package volumes owns what a container can mount besides its root: named and
// anonymous volumes, bind mounts, tmpfs, configs and secrets, image content.
//
// A [Store] keeps one directory per volume below DataRoot/volumes:
//
//	volumes/shop_data/volume.json   the record: spec, time, whether seeded
//	volumes/shop_data/_data         the content
//
// A volume appears and disappears by one rename of its directory, so that a
// reader needs no lock and power may fail at any time. Writers hold the flock
// of the directory RunRoot/locks/volumes; who fills a volume holds a flock on the volume's
// own directory, and who mounts it shares one for that moment. [Store.Rename] and
// [Store.Fill], which puts new content in the place of the old one, hold both.
//
// [Store.Resolve] turns what a container asks for into detached mounts
// (open_tree(2), fsmount(2)): file descriptors of mounts that no mount
// namespace knows. The container's process attaches them with move_mount(2);
// if it never comes to that, closing them is all the cleaning there is.
package volumes
