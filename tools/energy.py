from mmqsdt.cli.energy import main

if __name__ == '__main__':
    main()
