package clients

// A client is a program that people push and pull with, as shell commands. A command that is empty is what the client can't
// do, and why is in cannot. The commands find in their environment
//
//   - $HOST, the registry, and $NAME, what the image is called there, with a tag or with a digest;
//   - $LOGIN and $PASSWORD, who the user is, for those who say it with each command: empty without a login;
//   - $SOURCE, the image to push: $SOURCE.rootfs.tar is a file system, $SOURCE an OCI layout, $SOURCE.tar one in an archive,
//     and $SOURCE.files what it is built from;
//   - $FILE, the file in the image, by which it is known;
//   - $FOR, $ARCH and $VARIANT, which platform the image is for, and $PLATFORM, the same when the client is to be told;
//   - $TOOLS, the programs that were built.
type client struct {
	name  string
	needs []string // Debian's programs
	built []string // programs in $TOOLS
	// version prints it, when the client is none of those.
	version string
	env     []string

	daemon string // empty when the client has none
	ready  string // succeeds when the daemon answers
	// builder says that it works by a BuildKit, which starts with the CA in its configuration.
	builder bool

	login string // empty when it takes the user with each command
	// mute says that it shows nobody what the registry says when it refuses.
	mute bool
	// keeps says that login asks nobody whether the password is right.
	keeps  bool
	logout string

	create string // makes the image for one platform
	push   string
	forget string // removes everything from the client that it has of images
	pull   string
	read   string // prints the file of the image that was pulled
	both   string // pushes an image for both platforms
	remove string // deletes the image from the registry
	copy   string // copies the image that was pulled to $TO
	sign   string
	verify string

	// copies is how it does that.
	copies string
	// cutPull and cutPush are what becomes of a pull and a push whose connection is cut in the middle of a layer.
	cutPull, cutPush string

	cannot map[string]string // by the title of the step
}

// What a client does for a copy, and about a cut connection.
const (
	mounts  = "mounts"
	sends   = "sends all again"
	resumes = "goes on, with Range"
	restart = "starts anew"
	repeat  = ", when repeated"
	// perhaps is for who retries after some errors only, when it is chance which error it sees.
	perhaps = ", perhaps when repeated"
)

const (
	// imageDirectory is where the sources of images are, each under its name, and both is the one for both platforms.
	imageDirectory = "/run/image/"
	both           = imageDirectory + "both"

	// tag is that of all images: charts have the version as theirs. imported is what containerd calls the layout.
	tag      = "1.0.0"
	imported = "docker.io/library/imported:" + tag

	unknownAuthority = "x509: certificate signed by unknown authority"
)

// clients are all of them, by name.
func clients() map[string]client {
	all := map[string]client{}
	for _, c := range []client{
		docker(), dockerWithContainerd(), buildx(), podman(), buildah(), skopeo(), ctr(),
		crane(), oras(), regctl(), helm(), cosign(),
	} {
		all[c.name] = c
	}
	return all
}

// stdin gives a command the password as people should: not among its arguments.
func stdin(command string) string { return `printf %s "$PASSWORD" | ` + command }

const (
	noDelete     = "it has no command for that"
	noSignatures = "signing is left to cosign"
)

// dockerd is the daemon, with all its state in /run.
const dockerd = "dockerd --data-root /run/docker-data --storage-driver vfs "

func docker() client {
	return client{
		name:    "docker",
		needs:   []string{"dockerd", "docker"},
		version: "dockerd --version",
		daemon:  dockerd + "--bridge none --iptables=false",
		ready:   "docker info",
		login:   stdin("docker login --username $LOGIN --password-stdin $HOST"),
		logout:  "docker logout $HOST",
		create:  "docker import --platform $FOR $SOURCE.rootfs.tar $NAME",
		push:    "docker push $NAME",
		forget:  "docker image prune --all --force",
		pull:    "docker pull ${PLATFORM:+--platform $PLATFORM} $NAME",
		read: "container=$(docker create --pull never ${PLATFORM:+--platform $PLATFORM} $NAME none) && " +
			"docker cp $container:/$FILE - | tar -xO && docker rm $container >/dev/null",
		both: `set -e
			for platform in amd64 arm/v7; do
				arch=${platform%/*}
				docker import --platform linux/$platform ` + imageDirectory + `$arch.rootfs.tar $NAME-$arch
				docker push $NAME-$arch
			done
			docker manifest create $NAME $NAME-amd64 $NAME-arm
			docker manifest annotate --arch arm --variant v7 $NAME $NAME-arm
			docker manifest push $NAME`,
		copy:    "docker tag $NAME $TO && docker push $TO",
		copies:  mounts,
		cutPull: resumes,
		cutPush: restart,
		cannot:  map[string]string{"delete": noDelete, "sign and verify": noSignatures},
	}
}

// dockerWithContainerd is docker as it is since 29, where images are in containerd's store.
func dockerWithContainerd() client {
	const root = "/run/docker-with-containerd"
	c := docker()
	c.name, c.version = "docker with containerd", ""
	c.needs = []string{"docker", "runc"}
	c.built = []string{"dockerd", "containerd"}
	c.env = []string{"DOCKER_HOST=unix://" + root + "/docker.sock"}
	c.daemon = "env PATH=$TOOLS:$PATH dockerd --data-root " + root + "/data --exec-root " + root + "/exec " +
		"--pidfile " + root + "/pid --host unix://" + root + "/docker.sock --storage-driver native " +
		"--feature containerd-snapshotter=true --bridge=none --iptables=false"
	c.cutPush = restart + repeat
	c.ready = "docker --host unix://" + root + "/docker.sock info | grep -q io.containerd.snapshotter"
	c.both = "docker load --input " + both + ".tar && docker tag " + imported + " $NAME && docker push $NAME"
	return c
}

func buildx() client {
	return client{
		name:    "buildx",
		needs:   []string{"docker", "runc"},
		built:   []string{"buildx", "buildkitd"},
		env:     []string{"DOCKER_CONFIG=" + buildxConfig},
		builder: true,
		login:   stdin("docker login --username $LOGIN --password-stdin $HOST"),
		logout:  "docker logout $HOST",
		create:  "true",
		push: "docker buildx build --progress plain --provenance=false --platform $FOR --push --tag $NAME " +
			"$SOURCE.files",
		forget: "rm -rf /run/built && docker buildx prune --all --force",
		pull: "docker buildx build --progress plain --no-cache --pull ${PLATFORM:+--platform $PLATFORM} " +
			"--build-arg FROM=$NAME --output type=local,dest=/run/built /run/from",
		read:    "cat /run/built/$FILE",
		both:    "docker buildx build --progress plain --platform " + platforms + " --push --tag $NAME " + both + ".files",
		copy:    "docker buildx imagetools create --prefer-index=false --tag $TO $NAME",
		copies:  sends,
		cutPull: resumes,
		cutPush: restart,
		cannot:  map[string]string{"delete": noDelete, "sign and verify": noSignatures},
	}
}

func podman() client {
	const podman = podmanCommand
	return client{
		name:    "podman",
		needs:   []string{"podman"},
		version: "podman --version",
		login:   stdin(podman + "login --username $LOGIN --password-stdin $HOST"),
		logout:  podman + "logout $HOST",
		create:  podman + "import --arch $ARCH ${VARIANT:+--variant $VARIANT} $SOURCE.rootfs.tar $NAME",
		push:    podman + "push $NAME",
		forget:  podman + "rmi --all --force",
		pull:    podman + "pull ${PLATFORM:+--platform $PLATFORM} $NAME",
		read:    "cat $(" + podman + "image mount $NAME)/$FILE",
		both: podman + "manifest create $NAME oci-archive:" + imageDirectory + "amd64.tar && " +
			podman + "manifest add $NAME oci-archive:" + imageDirectory + "arm.tar && " +
			podman + "manifest push --all $NAME docker://$NAME",
		copy:    podman + "tag $NAME $TO && " + podman + "push $TO",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart + perhaps,
		cannot:  map[string]string{"delete": noDelete, "sign and verify": noSignatures},
	}
}

const podmanCommand = "podman --root /run/podman/root --runroot /run/podman/run --tmpdir /run/podman/tmp --storage-driver vfs " +
	"--cgroup-manager cgroupfs --events-backend file "

func buildah() client {
	const buildah = "buildah --root /run/buildah/root --runroot /run/buildah/run --storage-driver vfs "
	return client{
		name:    "buildah",
		needs:   []string{"buildah"},
		version: "buildah --version",
		login:   stdin("buildah login --username $LOGIN --password-stdin $HOST"),
		logout:  "buildah logout $HOST",
		create:  buildah + "tag $(" + buildah + "pull --quiet --policy always oci-archive:$SOURCE.tar) $NAME",
		push:    buildah + "push $NAME",
		forget:  buildah + "rmi --all --force",
		pull:    buildah + "pull --policy always ${PLATFORM:+--platform $PLATFORM} $NAME",
		read: "container=$(" + buildah + "from --pull-never $NAME) && " +
			"cat $(" + buildah + "mount $container)/$FILE && " + buildah + "rm $container >/dev/null",
		both: buildah + "manifest create $NAME && " +
			buildah + "manifest add $NAME oci-archive:" + imageDirectory + "amd64.tar && " +
			buildah + "manifest add $NAME oci-archive:" + imageDirectory + "arm.tar && " +
			buildah + "manifest push --all $NAME docker://$NAME",
		copy:    buildah + "tag $NAME $TO && " + buildah + "push $TO",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart + perhaps,
		cannot:  map[string]string{"delete": noDelete, "sign and verify": noSignatures},
	}
}

// catLayout prints the file from the layers of an OCI layout.
func catLayout(directory string) string {
	return "for blob in " + directory + "/blobs/sha256/*; do tar -xOf $blob $FILE 2>/dev/null || true; done"
}

func skopeo() client {
	const pulled = "/run/skopeo"
	return client{
		name:    "skopeo",
		needs:   []string{"skopeo"},
		version: "skopeo --version",
		login:   stdin("skopeo login --username $LOGIN --password-stdin $HOST"),
		logout:  "skopeo logout $HOST",
		create:  "true",
		push:    "skopeo copy oci-archive:$SOURCE.tar docker://$NAME",
		forget:  "rm -rf " + pulled,
		pull: "skopeo ${PLATFORM:+--override-arch $ARCH --override-variant \"$VARIANT\"} copy docker://$NAME oci:" + pulled +
			":" + tag,
		read:    catLayout(pulled),
		both:    "skopeo copy --all oci-archive:" + both + ".tar docker://$NAME",
		remove:  "skopeo delete docker://$NAME",
		copy:    "skopeo copy docker://$NAME docker://$TO",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart + perhaps,
		cannot:  map[string]string{"sign and verify": noSignatures},
	}
}

// ctrConfig is for a containerd that serves ctr and nobody else.
const ctrConfig = `
version = 2
root = "/run/ctr/root"
state = "/run/ctr/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/ctr/containerd.sock"
`

func ctr() client {
	const (
		ctr      = "ctr --address /run/ctr/containerd.sock images "
		registry = `--hosts-dir /etc/containerd/certs.d ${LOGIN:+--user "$LOGIN:$PASSWORD"} `
	)
	return client{
		name:    "ctr",
		needs:   []string{"containerd", "ctr"},
		version: "containerd --version",
		daemon:  "containerd --config /run/ctr/config.toml",
		ready:   "ctr --address /run/ctr/containerd.sock version",
		mute:    true,
		create: ctr + "import --snapshotter native --all-platforms $SOURCE.tar && " +
			ctr + "tag --force " + imported + " $NAME",
		push:   ctr + "push " + registry + "$NAME",
		forget: ctr + "rm --sync $(" + ctr + "list --quiet)",
		pull:   ctr + "pull " + registry + "--snapshotter native ${PLATFORM:+--platform $PLATFORM} $NAME",
		read: "mkdir -p /run/ctr/mounted && " +
			ctr + "mount --snapshotter native --platform $FOR $NAME /run/ctr/mounted >/dev/null && " +
			"cat /run/ctr/mounted/$FILE && " + ctr + "unmount --rm /run/ctr/mounted >/dev/null",
		both: ctr + "import --snapshotter native --all-platforms " + both + ".tar && " +
			ctr + "tag --force " + imported + " $NAME && " + ctr + "push " + registry + "$NAME",
		copy:    ctr + "tag $NAME $TO && " + ctr + "push " + registry + "$TO",
		copies:  mounts,
		cutPull: resumes,
		cutPush: restart + repeat,
		cannot: map[string]string{
			"delete":          noDelete,
			"sign and verify": noSignatures,
		},
	}
}

func crane() client {
	const pulled = "/run/crane"
	return client{
		name:    "crane",
		built:   []string{"crane"},
		login:   stdin("$TOOLS/crane auth login $HOST --username $LOGIN --password-stdin"),
		keeps:   true,
		logout:  "$TOOLS/crane auth logout $HOST",
		create:  "true",
		push:    "$TOOLS/crane push $SOURCE $NAME",
		forget:  "rm -rf " + pulled,
		pull:    "$TOOLS/crane pull --format oci ${PLATFORM:+--platform $PLATFORM} $NAME " + pulled,
		read:    catLayout(pulled),
		both:    "$TOOLS/crane push " + both + " $NAME",
		remove:  "$TOOLS/crane delete ${NAME%:*}@$($TOOLS/crane digest $NAME)",
		copy:    "$TOOLS/crane copy $NAME $TO",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart,
		cannot:  map[string]string{"sign and verify": noSignatures},
	}
}

func oras() client {
	const pulled = "/run/oras"
	return client{
		name:    "oras",
		built:   []string{"oras"},
		login:   stdin("$TOOLS/oras login --username $LOGIN --password-stdin $HOST"),
		logout:  "$TOOLS/oras logout $HOST",
		create:  "true",
		push:    "$TOOLS/oras cp --from-oci-layout $SOURCE:" + tag + " $NAME",
		forget:  "rm -rf " + pulled,
		pull:    "$TOOLS/oras cp ${PLATFORM:+--platform $PLATFORM} $NAME --to-oci-layout " + pulled + ":" + tag,
		read:    catLayout(pulled),
		both:    "$TOOLS/oras cp --from-oci-layout " + both + ":" + tag + " $NAME",
		remove:  "$TOOLS/oras manifest delete --force $NAME",
		copy:    "$TOOLS/oras cp $NAME $TO",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart + repeat,
		cannot:  map[string]string{"sign and verify": noSignatures},
	}
}

func regctl() client {
	const pulled = "/run/regctl"
	return client{
		name:    "regctl",
		built:   []string{"regctl"},
		login:   stdin("$TOOLS/regctl registry login --user $LOGIN --pass-stdin $HOST"),
		logout:  "$TOOLS/regctl registry logout $HOST",
		create:  "true",
		push:    "$TOOLS/regctl image copy ocidir://$SOURCE:" + tag + " $NAME",
		forget:  "rm -rf " + pulled,
		pull:    "$TOOLS/regctl image copy ${PLATFORM:+--platform $PLATFORM} $NAME ocidir://" + pulled + ":" + tag,
		read:    catLayout(pulled),
		both:    "$TOOLS/regctl image copy ocidir://" + both + ":" + tag + " $NAME",
		remove:  "$TOOLS/regctl manifest delete --force-tag-dereference $NAME",
		copy:    "$TOOLS/regctl image copy $NAME $TO",
		copies:  mounts,
		cutPull: resumes,
		cutPush: restart,
		cannot:  map[string]string{"sign and verify": noSignatures},
	}
}

func helm() client {
	const pulled = "/run/helm/pulled"
	return client{
		name:   "helm",
		built:  []string{"helm"},
		login:  stdin("$TOOLS/helm registry login --username $LOGIN --password-stdin $HOST"),
		logout: "$TOOLS/helm registry logout $HOST",
		create: "$TOOLS/helm package $SOURCE.files --destination /run/helm",
		push:   "$TOOLS/helm push /run/helm/" + imageName + "-" + tag + ".tgz oci://${NAME%/*}",
		forget: "rm -rf " + pulled + " /run/home-helm/.cache/helm",
		pull:   "mkdir -p " + pulled + " && $TOOLS/helm pull oci://$NAME --destination " + pulled,
		read:   "tar -xOf " + pulled + "/" + imageName + "*.tgz " + imageName + "/$FILE",

		cutPull: restart + repeat,
		cutPush: restart + repeat,
		cannot: map[string]string{
			"both platforms":  "charts are for all platforms",
			"delete":          noDelete,
			"copy":            noDelete,
			"sign and verify": noSignatures,
		},
	}
}

func cosign() client {
	const pulled = "/run/cosign/pulled"
	return client{
		name:   "cosign",
		built:  []string{"cosign"},
		env:    []string{"COSIGN_PASSWORD="},
		login:  stdin("$TOOLS/cosign login --username $LOGIN --password-stdin $HOST"),
		keeps:  true,
		logout: "$TOOLS/crane auth logout $HOST", // it has no command for that
		create: "true",
		push:   "$TOOLS/cosign load --dir $SOURCE $NAME",
		forget: "rm -rf " + pulled,
		pull:   "$TOOLS/cosign save --dir " + pulled + " $NAME",
		read:   catLayout(pulled),
		both:   "$TOOLS/cosign load --dir " + both + " $NAME",
		copy:   "$TOOLS/cosign copy $NAME $TO",
		sign: "cd /run/cosign && test -f cosign.key || $TOOLS/cosign generate-key-pair && " +
			"$TOOLS/cosign sign --yes --key cosign.key --use-signing-config=false --tlog-upload=false $FORMAT $NAME",
		verify:  "$TOOLS/cosign verify --key /run/cosign/cosign.pub --insecure-ignore-tlog $FORMAT $NAME",
		copies:  mounts,
		cutPull: restart + repeat,
		cutPush: restart,
		cannot:  map[string]string{"delete": "it deletes signatures only"},
	}
}
